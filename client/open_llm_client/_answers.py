"""What calls give back: small values that print, index and compare. Knows no wire format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, overload

if TYPE_CHECKING:
    import numpy


class Record:
    """`answer["message"]` is `answer.message`, and `dict(answer)` has every field."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]

    def keys(self) -> list[str]:
        return [each.name for each in fields(self)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(f"{name!r}: there is {', '.join(self.keys())}")
        return getattr(self, name)


@dataclass(frozen=True)
class Usage(Record):
    """Tokens read and written. `cached_tokens` of the prompt were not evaluated again."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Delta(Record):
    """More text of choice `index`."""

    text: str
    index: int = 0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ChatAnswer(Record):
    """The next turn of a conversation; `str()` of it is its text."""

    message: str
    finish_reason: str
    """`stop`: the model was done, or at a stop sequence; `length`: `max_tokens` or the context."""
    configuration: dict[str, Any]
    """The values that the server used."""
    usage: Usage
    model: str
    id: str
    """What the server's log calls the request."""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class CompleteAnswer(Record):
    """Texts that go on where the prompt ends: `answer[0]` is the first, `len(answer)` how many."""

    choices: list[str]
    finish_reasons: list[str]
    """Of each choice."""
    configuration: dict[str, Any]
    usage: Usage
    model: str
    id: str

    @overload
    def __getitem__(self, name: int) -> str: ...
    @overload
    def __getitem__(self, name: slice) -> list[str]: ...
    @overload
    def __getitem__(self, name: str) -> Any: ...
    def __getitem__(self, name: int | slice | str) -> Any:
        return super().__getitem__(name) if isinstance(name, str) else self.choices[name]

    def __len__(self) -> int:
        return len(self.choices)

    def __iter__(self) -> Iterator[str]:
        return iter(self.choices)

    def __contains__(self, text: object) -> bool:
        return text in self.choices

    def __str__(self) -> str:
        return "\n".join(self.choices)


@dataclass(frozen=True, eq=False)
class EmbedAnswer(Record, Sequence[list[float]]):
    """Vectors of the inputs, in their order, L2-normalised: `answer[0]` is a list of floats."""

    embeddings: list[list[float]]
    dimension: int
    """Numbers of each vector."""
    pooling: str
    """How a text became one vector, such as `mean`."""
    usage: Usage
    model: str
    id: str

    @overload
    def __getitem__(self, name: int) -> list[float]: ...
    @overload
    def __getitem__(self, name: slice) -> list[list[float]]: ...
    @overload
    def __getitem__(self, name: str) -> Any: ...
    def __getitem__(self, name: int | slice | str) -> Any:
        return super().__getitem__(name) if isinstance(name, str) else self.embeddings[name]

    def __len__(self) -> int:
        return len(self.embeddings)

    def __iter__(self) -> Iterator[list[float]]:
        return iter(self.embeddings)

    def __contains__(self, vector: object) -> bool:
        return vector in self.embeddings

    def __eq__(self, other: object) -> bool:
        if isinstance(other, EmbedAnswer):
            return dict(self) == dict(other)
        return self.embeddings == other

    @property
    def array(self) -> numpy.ndarray[Any, Any]:
        """A float32 array of shape (inputs, dimension). Raises ImportError without numpy."""
        try:
            import numpy
        except ImportError:
            raise ImportError(
                "an array needs numpy: pip install numpy; without it, .embeddings has plain lists"
            ) from None
        return numpy.asarray(self.embeddings, dtype=numpy.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.array if dtype is None else self.array.astype(dtype)

    def __repr__(self) -> str:
        return (
            f"EmbedAnswer({len(self)} of dimension {self.dimension}, pooling={self.pooling!r}, "
            f"model={self.model!r}, id={self.id!r})"
        )


@dataclass(frozen=True)
class Model(Record):
    """A model that the server has."""

    id: str
    family: str
    status: str
    """`ready`, `loading`, `restarting`, `silent`, `lost` or `failed`."""
    aliases: list[str]
    context_length: int | None
    """Tokens of prompt and answer together; `None` while it is not known."""
    capabilities: list[str]
    """Of `chat`, `completion` and `embedding`."""
    embedding_dimension: int | None

    def __str__(self) -> str:
        context = f", context {self.context_length}" if self.context_length else ""
        return f"{self.id} ({self.family}): {self.status}{context}, {' '.join(self.capabilities)}"


@dataclass(frozen=True)
class Health(Record):
    """How the server is; true when it is ready."""

    status: str
    """`ready` (every model can answer), `not_ready` or `draining`."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Each model's status by its name."""

    @property
    def ready(self) -> bool:
        return self.status == "ready"

    def __bool__(self) -> bool:
        return self.ready

    def __str__(self) -> str:
        models = ", ".join(f"{name} {state}" for name, state in self.models.items())
        return f"{self.status} ({models})" if models else self.status


Answer = ChatAnswer | CompleteAnswer | EmbedAnswer | list[Model] | Health
