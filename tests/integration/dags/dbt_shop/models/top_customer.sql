select * from {{ ref('customers') }} where true {{ maybe_fail('top_customer') }} order by amount desc limit 1
