{# A table over all loaded days: an incremental one would keep the column type of its first release. #}
select
  f.flight_date,
  f.carrier,
  a.carrier_name,
  cast(count(*) as bigint) as flights,
  cast(count(*) filter (where f.is_cancelled) as bigint) as cancelled,
  round(avg(f.dep_delay), 2) as mean_dep_delay,
  round(avg(f.arr_delay), 2) as mean_arr_delay,
  {% if var('delay_format') == 'text' -%}
  cast(cast(max(f.arr_delay) as integer) as varchar) || ' min' as worst_arr_delay,
  {%- else -%}
  max(f.arr_delay) as worst_arr_delay,
  {%- endif %}
  round(count(*) filter (where f.arr_delay > 15) / count(*), 4) as delayed_share
from {{ ref('stg_flights') }} f
join {{ ref('stg_airlines') }} a on a.carrier = f.carrier
group by f.flight_date, f.carrier, a.carrier_name
