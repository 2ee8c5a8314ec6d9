select * from {{ ref('raw_payments') }} where true {{ maybe_fail('stg_payments') }}
