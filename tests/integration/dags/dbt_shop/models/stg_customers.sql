select * from {{ ref('raw_customers') }} where true {{ maybe_fail('stg_customers') }}
