{% macro maybe_fail(name) %}
{%- if var('fail', '') == name -%}
  and error('told to fail: {{ name }}') is null
{%- endif -%}
{%- if var('gate', '') and name == 'orders' -%}
  and case when exists (select 1 from read_text('{{ var("gate") }}*')) then true else error('the gate is shut') end
{%- endif -%}
{%- if var('slow', '') and name == 'customers' -%}
  and (select sum(hash(i)) from range({{ var("slow") }}) as r(i)) is not null
{%- endif -%}
{% endmacro %}
