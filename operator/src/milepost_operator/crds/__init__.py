"""The custom resources as pydantic models, and the CRDs made of them. Pure: no client, no defaults of the chart."""
