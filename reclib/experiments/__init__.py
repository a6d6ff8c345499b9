"""One module per chapter, `chNN_name.py`, each runnable as `python -m reclib experiments NN --seeds 0-4`.

`results` keeps what they measure. An experiment module has

- `NAME = "NN_name"`: the name of its results file, `data/results/NN_name.parquet`;
- `Config`: a frozen dataclass, one comment per field, whose defaults are the recorded run;
- `SCALES: dict[str, Config]`: what `--scale smoke`, `book` and `full` mean, `full` being `Config()`;
- `run(config, seeds, *, force=False, root=None)`: the arms and seeds, each inside `results.record`.
"""
