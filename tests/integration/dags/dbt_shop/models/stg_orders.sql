select * from {{ ref('raw_orders') }} where true {{ maybe_fail('stg_orders') }}
