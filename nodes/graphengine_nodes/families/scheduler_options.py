"""Options of schedulers: which a class has and what they may be, read in diffusers' own source without importing it.

So a graph is validated without torch, and a new option of diffusers is one here.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

OWN_TIMES = ("sigmas", "timesteps")
"""Options that are no part of a scheduler's configuration, but arguments of the pipeline: where to step, by hand."""

_TRAINED = "it is how the model was trained; what its files leave open is for load_model's prediction_type and zero_snr"

REFUSED = {
    "noise_sampler_seed": "the seed says it",
    "stochastic_sampling": "it draws noise that no seed decides",
    **dict.fromkeys(("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"), _TRAINED),
}
"""Options that a picture must not depend on, and why."""

NEEDED: Mapping[str, tuple[str, bool]] = {
    "shift": ("use_dynamic_shifting", False),
    "base_shift": ("use_dynamic_shifting", True),
    "max_shift": ("use_dynamic_shifting", True),
    "flow_shift": ("use_flow_sigmas", True),
}
"""Options that change nothing unless another one is so."""

VALUES: Mapping[str, tuple[Any, ...]] = {
    "solver_order": (1, 2, 3),
    "interpolation_type": ("linear", "log_linear"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),  # models here learn none
}
"""What options may be that diffusers' types leave open, or that it has for other models."""

SCHEDULES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
"""Options that each choose a noise schedule."""


class _Parameter(NamedTuple):
    annotation: ast.expr | None
    default: ast.expr | None


def problems(scheduler: str, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each option that a scheduler does not take.

    Args:
        scheduler: The name of its class.
        options: By name, as users give them; `OWN_TIMES` among them.
    """
    known = _parameters(scheduler, "__init__")
    if not known:  # diffusers is no folder of sources here
        return
    for name, value in options.items():
        if refused := next(refusals(name, value), None):
            yield refused
        elif name in OWN_TIMES:
            yield from _times_problems(scheduler, name, value)
        elif name not in known:
            own = ", ".join(one for one in known if one not in REFUSED)
            yield f"{scheduler} has no option {name}; it has {own}"
        elif name in VALUES and value not in VALUES[name]:
            *others, last = map(str, VALUES[name])
            yield f"scheduler_options has {name} {value!r:.40}; {scheduler} takes {', '.join(others)} or {last}"
        elif not _fits(value, known[name]):
            yield f"scheduler_options has {name} {value!r:.40}; {scheduler} takes {_said(known[name])}"
    yield from contradictions(options)


def refusals(name: str, value: Any) -> Iterator[str]:
    """Yield why an option can be given to no scheduler."""
    if name in REFUSED:
        yield f"scheduler_options has {name}, which cannot be given: {REFUSED[name]}"
    elif name in OWN_TIMES:
        yield from _numbers_problems(name, value)


def contradictions(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for options that each say where to step."""
    said = [name for name in (*OWN_TIMES, *SCHEDULES) if name in options and options[name] not in (None, False)]
    if len(said) > 1:
        yield f"{said[0]} and {said[1]} both say where to step, by the scheduler's name or its options; leave one out"


def is_known(name: str) -> bool:
    """Whether the schedulers with the most options have one of that name."""
    most = ("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
    return name not in REFUSED and any(name in _parameters(scheduler, "__init__") for scheduler in most)


def without_effect(options: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """A sentence for the first option that changes nothing in a scheduler's whole configuration; None if all do."""
    for name, (other, needed) in NEEDED.items():
        if name in options and other in config and bool(config[other]) != needed:
            return f"{name} changes nothing while {other} is {not needed}; give {other} as well, or leave {name} out"
    return None


def _times_problems(scheduler: str, name: str, value: Any) -> Iterator[str]:
    takes = [one for one in OWN_TIMES if one in _parameters(scheduler, "set_timesteps")]
    if name not in takes:
        yield f"{scheduler} takes no {name} of your own" + (f", but {takes[0]}" if takes else "; leave them out")
    else:
        yield from _numbers_problems(name, value)


def _numbers_problems(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, (list, tuple)) or not value or not all(_is_number(one) for one in value):
        yield f"scheduler_options has {name} {value!r:.40}; give a list of numbers"
    elif not all(math.isfinite(one) and one >= 0 for one in value) or any(
        below >= above for above, below in itertools.pairwise(value)
    ):
        yield f"scheduler_options has {name} {value!r:.40}; give numbers of at least 0, each below the one before"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _fits(value: Any, parameter: _Parameter) -> bool:
    """Whether a value is of a parameter's type; None fits where it is the default."""
    annotation, default = parameter
    unset = isinstance(default, ast.Constant) and default.value is None
    if unset and (value is None or (_is_number(value) and annotation and ast.unparse(annotation) == "bool | None")):
        return True  # diffusers annotates some numbers that may be None as bool
    return annotation is None or _is_of(value, annotation)


def _said(parameter: _Parameter) -> str:
    """A parameter's type for people."""
    said = ast.unparse(parameter.annotation) if parameter.annotation else "another value"
    return said.replace("Literal", "one of ").replace(" | None", " or null")


def _is_of(value: Any, annotation: ast.expr) -> bool:
    match annotation:
        case ast.BinOp(left=left, right=right):
            return _is_of(value, left) or _is_of(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return _is_number(value)
        case ast.Name(id="str"):
            return isinstance(value, str)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            known = ast.literal_eval(choices)
            return value in (known if isinstance(known, tuple) else (known,))
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, (list, tuple)) and all(_is_of(one, item) for one in value)
    return False  # an object, which no graph holds


@functools.cache
def _parameters(scheduler: str, method: str) -> dict[str, _Parameter]:
    """The parameters of a method of a scheduler's class; empty where there is no source."""
    found = next((one for one in _class(scheduler) if isinstance(one, ast.FunctionDef) and one.name == method), None)
    if found is None:
        return {}
    arguments = found.args.args
    defaults = [None] * (len(arguments) - len(found.args.defaults)) + list(found.args.defaults)
    return {
        one.arg: _Parameter(one.annotation, default)
        for one, default in zip(arguments, defaults, strict=True)
        if one.arg != "self"
    }


@functools.cache
def _class(scheduler: str) -> list[ast.stmt]:
    """The body of a scheduler's class."""
    spec = importlib.util.find_spec("diffusers")
    folder = Path(spec.origin or "").parent / "schedulers" if spec else Path()
    for file in sorted(folder.glob("scheduling_*.py")):
        text = file.read_text("utf-8")
        if f"class {scheduler}(" in text:
            bodies = (one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and one.name == scheduler)
            return next(bodies).body
    return []
