{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='flight_date') }}
select
  f.flight_date,
  b.band,
  b.label,
  cast(count(*) as bigint) as flights
from {{ ref('stg_flights') }} f
join {{ ref('delay_bands') }} b
  on f.arr_delay > b.from_minutes and f.arr_delay <= b.to_minutes
{% if var('day') -%}
where f.flight_date = date '{{ var("day") }}'
{%- endif %}
group by f.flight_date, b.band, b.label
