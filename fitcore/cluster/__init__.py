"""Several worker processes that train one model, under `tf.distribute.MultiWorkerMirroredStrategy`.

__main__.py   python -m fitcore.cluster: starts them on this machine; needs no TensorFlow
job.py        the processes: started, heard, ended together
printed.py    --print: what to run on several hosts, by hand, under Slurm, in Kubernetes
agreement.py  what they decide together, between two compiled calls
role.py       which worker this process is, and the sign of life that it gives
"""
