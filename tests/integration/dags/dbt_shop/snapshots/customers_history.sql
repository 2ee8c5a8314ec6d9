{% snapshot customers_history %}
{{ config(unique_key='id', strategy='check', check_cols=['name']) }}
select * from {{ ref('stg_customers') }}
{% endsnapshot %}
