"""Run the scripts beside this one, each seeded alike, and write down how each ended: python run_all.py RESULT.json

A script's end is the digest of the weights of its `model`, or the error that stopped it.
"""

import hashlib
import json
import pathlib
import re
import runpy
import sys

import keras


def end_of(path: pathlib.Path) -> str:
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    try:
        model = runpy.run_path(str(path), run_name="__main__")["model"]
    except Exception as error:
        return f"{type(error).__name__}: {re.sub('0x[0-9a-f]+', '0x...', str(error))}"
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest()


scripts = sorted(set(pathlib.Path(__file__).parent.glob("*.py")) - {pathlib.Path(__file__)})
pathlib.Path(sys.argv[1]).write_text(json.dumps({path.stem: end_of(path) for path in scripts}))
