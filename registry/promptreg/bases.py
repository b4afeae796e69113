"""Base models: the frozen models that prompts are trained on."""

from dataclasses import dataclass, field

from promptreg.digests import Digest
from promptreg.fingerprints import Fingerprint, WeightTable

__all__ = ["BaseModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """A frozen pre-trained model, known by its weights.

    Attributes:
        fingerprint: Its identity.
        embedding: The digest of its input embedding, 64 hex digits.
        body: The digest of the rest of its backbone, 64 hex digits.
        head: The digest of its head, 64 hex digits; None if it has none or ties it to the embedding.
        architecture: Its class, such as ``LlamaForCausalLM``.
        model_type: The family that its config names, such as ``llama``.
        encoder_decoder: Whether it has an encoder and a decoder.
        token_dim: The width H of its input embedding.
        vocab_size: The height V of its input embedding.
        num_layers: The number L of layers (of the decoder, if it has one).
        key_value_dim: The width of one layer's keys (or values): key/value heads times their width.
        parameters: How many numbers its weights hold, tied ones counted once.
        dtype: The narrowest dtype that holds most of them, such as ``BF16``.
        name: What the team calls it; None until it is registered under a name.
        source: Where it came from: a directory's name or a hub's identifier.
        revision: The revision there.
        tokenizer: The digest of a listing of its tokenizer's files, if there are any.
        table: Every weight's record. Listings leave it out (None); ``Registry.base`` brings it.

    Raises:
        ValueError: The table is another base model's: it does not hash to the fingerprint.
    """

    fingerprint: Fingerprint
    embedding: str
    body: str
    head: str | None = None
    architecture: str
    model_type: str
    encoder_decoder: bool = False
    token_dim: int
    vocab_size: int
    num_layers: int
    key_value_dim: int
    parameters: int
    dtype: str
    name: str | None = None
    source: str | None = None
    revision: str | None = None
    tokenizer: Digest | None = None
    table: WeightTable | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.table is not None and self.table.fingerprint != self.fingerprint:
            raise ValueError(
                f"the table of weights hashes to {self.table.fingerprint}, not to {self.fingerprint}"
            )

    def __str__(self) -> str:
        return (
            f"{self.name} ({self.fingerprint.short}…)"
            if self.name
            else f"{self.fingerprint.short}…"
        )
