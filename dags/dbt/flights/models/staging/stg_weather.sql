select
  origin,
  cast(make_date(cast(year as bigint), cast(month as bigint), cast(day as bigint)) as date) as observed_on,
  avg(wind_speed) as mean_wind_mph,
  sum(precip) as rain_inches,
  min(visib) as worst_visibility_miles
from {{ source('raw', 'weather') }}
group by all
