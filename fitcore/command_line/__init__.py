"""Experiments on the command line.

registry.py    names for schedules, optimizers, stop hooks and noise measurements, and the specs that make them
registered.py  the names of what is Keras's or takes several parts
spec_flags.py  flags whose values are specs; strategy.py: --strategy
launch.py      launches an experiment: its flags (common_flags.py), a directory per run (new_directory.py), what `main` is given
               (run_directory.py); environment.py: what a run is made in
sweep.py       --sweep: a process per setting (sweep_settings.py), a table at the end; hparams.py: TensorBoard's
dry_run.py     --dry_run; profile.py: --profile
curves.py      curves/FIT.jsonl: curves that are written while a fit trains, and read
digests.py     what history.json gets of each fit, a digest of every variable per epoch with it
run_state.py   running, finished, failed or killed; records.py: what a run's directory tells; differences.py: where two differ
"""
