select faa as airport, name as airport_name, lat, lon from {{ source('raw', 'airports') }}
