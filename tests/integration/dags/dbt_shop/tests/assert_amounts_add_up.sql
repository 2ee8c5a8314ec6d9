select 1
where (select sum(amount) from {{ ref('customers') }}) <> (select sum(amount) from {{ ref('stg_payments') }})
   or '{{ var("fail_test", "") }}' <> ''
