-- JSON Schemas of Tasks, each once, by the SHA-256 (hex) of its text. A version's shape names them by it.
create table schemas (
    hash text primary key,
    body json not null
);

-- What the input of new runs has to fit; null: anything goes.
alter table tasks add column input_schema text references schemas (hash);

-- Of a held run that its Task has not seen yet: the schema that its input was last checked against.
alter table runs add column checked_schema text;
