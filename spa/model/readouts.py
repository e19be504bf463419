"""The readouts by name; another takes a class with the methods of CrossReadout and a
line here."""

from jaxtyping import Array, Float, Int

from attention import ImprovedTransformer
from spa.model.joint_readout import JointReadout


class CrossReadout(ImprovedTransformer):
    """Query tokens that cross-attend to the latents, none to another query; latents are
    not updated, so that a query costs a fraction of JointReadout's."""

    @staticmethod
    def reserved_channels(config) -> int:
        """Returns 0: the latents fill all channels of the decoder."""
        return 0

    @staticmethod
    def fields(config) -> dict:
        """Returns the fields that it has beside an ImprovedTransformer's sizes."""
        # Queries must not see each other, or a score would depend on which others were
        # asked for.
        return {"key_width": config.decoder_num_channels, "self_attention": False}

    @staticmethod
    def chunk_size() -> int:
        """Returns how many queries are decoded at once, where nobody says."""
        return 2048

    @staticmethod
    def query_time(frame: Int[Array, "B Q"], scale: float) -> Float[Array, "B Q"]:
        """Returns the time that the query token embeds."""
        return frame / scale

    def prepare(
        self, latents: Float[Array, "B L C"], num_queries: int
    ) -> Float[Array, "B L C"]:
        """Returns what all queries of a clip have in common: the latents."""
        return latents

    def __call__(
        self,
        queries: Float[Array, "B Q C"],
        prepared: Float[Array, "B L C"],
        query_frame: Int[Array, "B Q"],
    ) -> Float[Array, "B Q C"]:
        return super().__call__(queries, prepared)


READOUTS = {"joint": JointReadout, "cross": CrossReadout}
