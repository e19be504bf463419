"""Clusters of patch features: bipartite soft matching (Bolya et al. 2023), k-means."""

import cv2
import numpy as np
from jaxtyping import Float, Int

DISTINCT = 0.2  # cosine similarity under which a later frame's centroid is a new entity
# Similarities are rounded to this many decimals, so that those which are equal but for
# the order of a sum are ties, and ties fall alike everywhere.
DECIMALS = 12
# K-means begins some times, and the best after a few rounds is finished: as often as
# takes about half a second, that is so many products of patches, features and clusters:
# four times for 32 frames of 256 patches, 768 features and 32 clusters. The rounds that
# finish the best one take as long again.
KMEANS_STARTS = 2, 64
KMEANS_PRODUCTS = 1e9
KMEANS_FIRST_ROUNDS = 3
KMEANS_ROUNDS = 30


def bipartite_clusters(
    tokens: Float[np.ndarray, "T h w D"], merge_ratio: int = 25, num_iters: int = 11
) -> Int[np.ndarray, "T h w"]:
    """Returns the most similar centroid of each patch: of `distinct_centroids` of what
    `merge_tokens` leaves of each frame."""
    shape = tokens.shape
    flat = np.asarray(tokens, float).reshape(shape[0], -1, shape[-1])
    centroids = distinct_centroids(merge_tokens(flat, merge_ratio, num_iters))
    return _similarity(flat, centroids).argmax(axis=-1).reshape(shape[:3])


def merge_tokens(
    tokens: Float[np.ndarray, "T P D"], merge_ratio: int, num_iters: int
) -> Float[np.ndarray, "T M D"]:
    """Merges tokens by bipartite soft matching (ToMe, Bolya et al. 2023), all frames at
    once.

    In each round every second token, from the first on (even), is matched to the most
    similar odd one. The most similar pairs, `merge_ratio` percent of the tokens,
    rounded down, merge: an odd token becomes the mean of itself and those. Next come
    the unmerged even tokens by falling similarity, then the odd ones; of equal ones the
    first goes first.
    """
    for _ in range(num_iters):
        num_tokens = tokens.shape[1]
        num_merged = num_tokens * merge_ratio // 100
        if num_tokens < 2:
            break
        even, odd = tokens[:, 0::2], tokens[:, 1::2]
        similarity = _similarity(even, odd)
        highest, partner = similarity.max(axis=-1), similarity.argmax(axis=-1)
        order = np.argsort(-highest, axis=-1, kind="stable")
        merged, unmerged = order[:, :num_merged], order[:, num_merged:]
        frame = np.arange(len(tokens))[:, None]
        into = frame, partner[frame, merged]
        totals, counts = odd.copy(), np.ones(odd.shape[:2])
        np.add.at(totals, into, even[frame, merged])
        np.add.at(counts, into, 1)
        means = totals / counts[..., None]
        tokens = np.concatenate([even[frame, unmerged], means], axis=1)
    return tokens


def distinct_centroids(
    centroids: Float[np.ndarray, "T M D"],
) -> Float[np.ndarray, "K D"]:
    """Returns all centroids of the first frame, and of later ones, in order, each that
    has a similarity under DISTINCT to every one kept before it."""
    kept = centroids[0]
    for later in centroids[1:]:
        # Only a few can be new: the loop is over these.
        new = _similarity(later, kept).max(axis=-1) < DISTINCT
        added = later[:0]
        for centroid in later[new]:
            if not (_similarity(centroid[None], added) >= DISTINCT).any():
                added = np.concatenate([added, centroid[None]])
        kept = np.concatenate([kept, added])
    return kept


def _similarity(first, second):
    """Returns cosines between [..., P, D] and [..., M, D], [..., P, M]."""
    product = _unit(first) @ np.swapaxes(_unit(second), -1, -2)
    return np.round(product, DECIMALS)


def _unit(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def kmeans_clusters(
    tokens: Float[np.ndarray, "T h w D"], n_clusters: int = 32, seed: int = 0
) -> Int[np.ndarray, "T h w"]:
    """Returns clusters by k-means of all patches, the best of some starts; as many as
    there are different patches where these are fewer."""
    flat = np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])
    n_clusters = min(n_clusters, _num_different(flat, n_clusters))
    if n_clusters == 1:  # OpenCV takes a single row for a column
        return np.zeros(tokens.shape[:3], int)
    starts = int(np.clip(KMEANS_PRODUCTS / (flat.size * n_clusters), *KMEANS_STARTS))
    begun, _ = kmeans(flat, n_clusters, seed, KMEANS_FIRST_ROUNDS, starts)
    labels, _ = kmeans(flat, n_clusters, seed, begun=begun)
    return labels.reshape(tokens.shape[:3])


def _num_different(rows, enough):
    different = set()
    for row in rows:
        different.add(row.tobytes())
        if len(different) >= enough:
            break
    return len(different)


def kmeans(points, count, seed, rounds=KMEANS_ROUNDS, starts=1, begun=None):
    """Returns labels [n] and centres [count, D], from k-means++ or from labels."""
    cv2.setRNGSeed(seed)
    stop = cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, rounds, 1e-3
    how = cv2.KMEANS_PP_CENTERS if begun is None else cv2.KMEANS_USE_INITIAL_LABELS
    begun = None if begun is None else begun[:, None].copy()
    _, labels, centres = cv2.kmeans(points, count, begun, stop, starts, how)
    return labels[:, 0], centres
