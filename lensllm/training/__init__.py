"""Fine-tuning one candidate on one subset: a cell.

``loop`` trains on a subset by itself, ``trunk`` on the branch of a trunk, by ``optimiser``;
``schedule`` has the steps of both. ``accumulate`` computes the gradients of one step, ``evaluate``
a loss, ``memory`` finds batch sizes that fit, ``resume`` keeps checkpoints, ``ranks`` shards a cell
over several processes, ``throughput`` times a candidate.
"""
