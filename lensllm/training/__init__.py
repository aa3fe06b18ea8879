"""Fine-tuning one candidate on one subset: a cell.

``loop`` trains by a schedule, ``accumulate`` computes the gradients of one step, ``evaluate`` a
loss, ``memory`` finds batch sizes that fit, ``resume`` keeps checkpoints, ``ranks`` shards a cell
over several processes, ``throughput`` times a candidate.
"""
