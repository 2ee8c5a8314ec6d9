{{ config(materialized='incremental', incremental_strategy='delete+insert', unique_key='flight_date') }}
select
  f.flight_date,
  f.origin,
  f.dest,
  p.airport_name as dest_name,
  cast(count(*) as bigint) as flights,
  cast(count(*) filter (where f.is_cancelled) as bigint) as cancelled,
  round(avg(f.arr_delay), 2) as mean_arr_delay,
  round(avg(w.mean_wind_mph), 2) as mean_wind_mph
from {{ ref('stg_flights') }} f
left join {{ ref('stg_airports') }} p on p.airport = f.dest
left join {{ ref('stg_weather') }} w on w.origin = f.origin and w.observed_on = f.flight_date
{% if var('day') -%}
where f.flight_date = date '{{ var("day") }}'
{%- endif %}
group by f.flight_date, f.origin, f.dest, p.airport_name
