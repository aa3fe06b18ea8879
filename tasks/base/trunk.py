"""The states of a candidate's trunk in the store: the artefacts of the stage ``trunk``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lensllm.config.sections import FineTune
from lensllm.store.artifacts import Recipe, Ref, Store

if TYPE_CHECKING:
    from torch import Tensor

    from lensllm.training.ranks import Ranks
    from lensllm.training.trunk import Position, State

log = logging.getLogger("lensllm.training")
VERSION = 1
FILE = "state.safetensors"
_OF_CELLS = {"recipe", "size", "schedule", "trial"}  # parameters of a cell that its trunk lacks


class Trunk:
    """The states of one candidate's trunk in the store."""

    def __init__(
        self,
        store: Store,
        settings: FineTune,
        params: Mapping[str, Any],
        upstream: Mapping[str, Ref],
        ranks: Ranks,
        *,
        keep_all: bool = False,
    ) -> None:
        own = {name: value for name, value in params.items() if name not in _OF_CELLS}
        self._params = {**own, "recipe": settings.trunk_content}
        self._upstream = {role: ref for role, ref in upstream.items() if role != "rate"}
        self._store, self._ranks, self._keep_all = store, ranks, keep_all

    def latest(self, most: int) -> State | None:
        """The last state within ``most`` steps; None where there is none that can be read."""
        from safetensors import SafetensorError, safe_open

        from lensllm.training.trunk import Position

        for steps, ref in sorted(self._states().items(), reverse=True):
            if steps > most or not self._store.has(ref):
                continue
            try:
                with safe_open(self._store.file(ref, FILE), framework="pt") as file:
                    place = Position(**json.loads(file.metadata()["position"]))
                    return place, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s cannot be read (%s); an earlier part is trained again", ref, error)
        return None

    def keep(self, place: Position, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Publish the state at ``place``, and remove the earlier ones unless all are kept."""
        from safetensors.torch import save_file

        params = {**self._params, "steps": place.step}
        recipe = Recipe("trunk", VERSION, params, self._upstream)
        if place.step and self._ranks.broadcast(not self._store.has(recipe.ref)):
            tensors = dict(state())
            if self._ranks.first:
                header = {"position": json.dumps(vars(place))}
                self._store.make(recipe, lambda to: save_file(tensors, to / FILE, header))
        if self._ranks.first and not self._keep_all:
            self.remove(before=place.step)

    def remove(self, before: float = math.inf) -> None:
        """Remove the states of fewer than ``before`` steps."""
        for steps, ref in self._states().items():
            if steps < before:
                self._store.remove(ref)

    def _states(self) -> dict[int, Ref]:
        return states(self._store, self._params, self._upstream)


def states(
    store: Store, params: Mapping[str, Any], upstream: Mapping[str, Ref], *, any_rate: bool = False
) -> dict[int, Ref]:
    """The states of a trunk in the store by their steps; of trunks of ``any_rate`` all."""
    wanted = _key(params, {role: [ref.stage, ref.key] for role, ref in upstream.items()}, any_rate)
    return {
        manifest["params"]["steps"]: ref
        for ref, manifest in store.manifests("trunk").items()
        if manifest.get("version") == VERSION
        if _key(manifest["params"], manifest["upstream"], any_rate) == wanted
    }


def _key(params: Mapping[str, Any], upstream: Mapping[str, Any], any_rate: bool) -> tuple[Any, ...]:
    """All of a trunk but its steps and, with ``any_rate``, its learning rate."""
    rest = {name: value for name, value in params.items() if name not in ("steps", "recipe")}
    settings = FineTune.model_validate(params["recipe"])
    return (
        (settings.with_learning_rate(1.0) if any_rate else settings).trunk_content,
        rest,
        upstream,
    )
