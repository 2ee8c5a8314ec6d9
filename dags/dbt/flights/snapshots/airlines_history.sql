{% snapshot airlines_history %}
{{ config(schema='staging', unique_key='carrier', strategy='check', check_cols=['name']) }}
select carrier, name from {{ source('raw', 'airlines') }}
{% endsnapshot %}
