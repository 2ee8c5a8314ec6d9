-- Both marts count every flight of a day once.
select c.flight_date, c.flights, r.flights as by_route
from (select flight_date, sum(flights) as flights from {{ ref('daily_delays') }} group by all) c
join (select flight_date, sum(flights) as flights from {{ ref('daily_route_delays') }} group by all) r
  on r.flight_date = c.flight_date
where c.flights is distinct from r.flights
  {% if var('day') %} and c.flight_date = date '{{ var("day") }}' {% endif %}
