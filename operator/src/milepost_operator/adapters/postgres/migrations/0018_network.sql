-- What a Task says of the network of its pods, as its manifest has it; null: nothing.
alter table tasks add column network json;
