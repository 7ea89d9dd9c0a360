"""Parts of a data set: few-shot draws, base and novel classes, known and novel classes, incremental tasks."""
