"""What the five questions share: real data, statistics over paired seeds, verdicts by stated rules, fresh starts, findings.

data.py        real data that packages ship
statistics.py  an effect and its 95 % interval
verdicts.py    a claim, its rule, its verdict
measures.py    what more than one question measures of a run
restart.py     one traced model, started afresh from any seed
question.py    what an experiment collects, draws and leaves behind
"""
