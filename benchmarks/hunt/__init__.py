"""A hunt for differences between `model.fit` and `fitcore.fit`: `python -m benchmarks.hunt`.

__main__.py   starts processes with settings of their own, counts, prints the table
child.py      one such process: cases one after another
draw.py       a case from (seed, index), of what layers.py, choices.py and pieces.py hold
case.py       what a case is; script.py: the program it is
trial.py      trained by Keras twice and by fitcore's variants, compared
shrink.py     the smallest case that still fails
"""
