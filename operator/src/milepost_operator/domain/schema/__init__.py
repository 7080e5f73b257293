"""JSON Schema (draft 2020-12) whose cost is bounded, whoever wrote the schema and the value.

A check is polynomial: what a `$ref` says of a value is worked out once, and every look at a value takes a step of a
budget. Schemas that could not be bounded so (`$ref` circles, references to elsewhere) are refused when they are read.
"""
