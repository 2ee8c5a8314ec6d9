select o.id, o.customer_id, o.status, coalesce(p.amount, 0) as amount
from {{ ref('stg_orders') }} o left join {{ ref('paid') }} p on p.order_id = o.id
where true {{ maybe_fail('orders') }}
