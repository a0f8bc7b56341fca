"""From bytes of a user to a model, or to sentences that say what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sixgate.api.addr import shown
from sixgate.api.base import API_VERSION, UserObject
from sixgate.api.bigtcppolicy import BIGTCPPolicy
from sixgate.api.egressgateway import EgressGateway
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Problem, Ref

KINDS: Mapping[str, type[UserObject]] = {
    kind.__name__: kind for kind in (NAT46Gateway, EgressGateway, BIGTCPPolicy, LoadBalancer)
}

INVALID = "Invalid"
MAX_PROBLEMS = 20
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def parse_object(raw: object) -> UserObject | tuple[Problem, ...]:
    """The model of one object as read from YAML or the API server, or at least one Problem. Never raises.

    `status` is ignored; of `metadata` only what sixgate needs is read.
    """
    ref = ref_of(raw)
    if not isinstance(raw, Mapping):
        return (_problem(ref, "", f"must be an object with apiVersion, kind, metadata and spec, found {shown(raw)}"),)
    if raw.get("apiVersion") != API_VERSION:
        return (_problem(ref, "apiVersion", f"must be {API_VERSION}, found {shown(raw.get('apiVersion'))}"),)
    model = KINDS.get(ref.kind)
    if model is None:
        return (_problem(ref, "kind", f"must be one of {', '.join(KINDS)}, found {shown(raw.get('kind'))}"),)
    if not _NAME.fullmatch(ref.name):
        return (
            _problem(
                ref,
                "metadata.name",
                f"must be a lower-case DNS name of at most 253 characters, found {shown(_name(raw))}",
            ),
        )
    metadata = {key: value for key, value in _mapping(raw.get("metadata")).items() if value is not None}
    if not isinstance(metadata.get("creationTimestamp", ""), str):
        metadata["creationTimestamp"] = str(metadata["creationTimestamp"])
    try:
        return model.model_validate({**{k: v for k, v in raw.items() if k != "status"}, "metadata": metadata})
    except ValidationError as error:
        details = _causes(error.errors(include_url=False))
        return tuple(_problem(ref, *_sentence(detail)) for detail in details[:MAX_PROBLEMS])
    except RecursionError:
        return (_problem(ref, "spec", "must not be nested without end"),)


def ref_of(raw: object) -> Ref:
    """Kind and name of an object, as far as it has them."""
    body = _mapping(raw)
    kind = body.get("kind")
    name = _name(body)
    return Ref(kind if isinstance(kind, str) else "", name if isinstance(name, str) else "")


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _name(raw: object) -> object:
    return _mapping(_mapping(raw).get("metadata")).get("name")


def _problem(ref: Ref, field: str, text: str) -> Problem:
    subject = str(ref) if ref.kind and ref.name else "an object without kind or name"
    where = f"{field} " if field else ""
    return Problem(ref, INVALID, f"{subject}: {where}{text}", field)


def _causes(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """`details` without those that only follow from others: a list is too short once a wrong item is taken out."""
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(
            len(other["loc"]) > len(detail["loc"]) and other["loc"][: len(detail["loc"])] == detail["loc"]
            for other in details
        )
    ]


def _count(number: object, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _path(loc: tuple[int | str, ...]) -> str:
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else str(part)
    return path


def _sentence(error: ErrorDetails) -> tuple[str, str]:
    """Field and the rest of the sentence for one of pydantic's errors."""
    context = error.get("ctx", {})
    found = shown(error["input"])
    path = _path(error["loc"])
    match error["type"]:
        case "missing":
            return path, "is required"
        case "extra_forbidden":
            return path, "is not a field of this kind"
        case "value_error":
            text = str(context.get("error", error["msg"]))
            return path, text if text.startswith("must") else f"is wrong: {text}"
        case "literal_error":
            return path, f"must be {context.get('expected')}, found {found}"
        case "int_type" | "int_from_float":
            return path, f"must be an integer, found {found}"
        case "bool_type":
            return path, f"must be true or false, found {found}"
        case "string_type":
            return path, f"must be a string, found {found}"
        case "tuple_type" | "list_type":
            return path, f"must be a list, found {found}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return path, f"must be an object, found {found}"
        case "greater_than_equal":
            return path, f"must be at least {context.get('ge')}, found {found}"
        case "less_than_equal":
            return path, f"must be at most {context.get('le')}, found {found}"
        case "too_short":
            return (
                path,
                f"must have at least {_count(context.get('min_length'), 'item')}, found {context.get('actual_length')}",
            )
        case "too_long":
            return (
                path,
                f"must have at most {_count(context.get('max_length'), 'item')}, found {context.get('actual_length')}",
            )
        case "string_too_short":
            return path, f"must have at least {_count(context.get('min_length'), 'character')}, found {found}"
        case "string_too_long":
            return path, f"must have at most {context.get('max_length')} characters, found {found}"
        case "string_pattern_mismatch":
            return path, f"must match {context.get('pattern')}, found {found}"
        case _:
            return path, f"is wrong: {error['msg']}, found {found}"
