select c.id, c.name, count(o.id) as orders, coalesce(sum(o.amount), 0) as amount
from {{ ref('stg_customers') }} c left join {{ ref('orders') }} o on o.customer_id = c.id
where true {{ maybe_fail('customers') }}
group by all
