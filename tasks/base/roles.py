"""What a stage has several of upstream: ``kernel:gpt2`` is the kernel of gpt2."""

from collections.abc import Mapping

from lensllm.store.artifacts import Ref


def roles(kind: str, refs: Mapping[str, Ref]) -> dict[str, Ref]:
    """Upstream roles of a kind, as ``labelled`` reads them."""
    return {f"{kind}:{label}": ref for label, ref in refs.items()}


def labelled(upstream: Mapping[str, Ref], kind: str) -> dict[str, Ref]:
    """Those of a kind by label, in their order."""
    found = {}
    for role, ref in upstream.items():
        name, colon, label = role.partition(":")
        if name == kind and colon:
            found[label] = ref
    return found
