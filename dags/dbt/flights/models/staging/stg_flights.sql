select
  cast(flight_date as date) as flight_date,
  carrier,
  cast(flight as integer) as flight_number,
  tailnum,
  origin,
  dest,
  dep_time is null as is_cancelled,
  cast(dep_delay as double) as dep_delay,
  cast(arr_delay as double) as arr_delay,
  cast(distance as double) as miles,
  time_hour
from {{ source('raw', 'flights') }}
