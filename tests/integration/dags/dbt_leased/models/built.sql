{% set earlier = load_relation(this) %}
select
    session_user::text as login,
    current_user::text as role,
    {% if earlier %}(select login from {{ earlier }}){% else %}null::text{% endif %} as before
