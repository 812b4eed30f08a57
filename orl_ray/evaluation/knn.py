"""Multi-label k-nearest-neighbour scores: how much of what an image's neighbours show does it show itself?

No library ships such a probe for images with several labels, so here is the whole protocol.

* Features: the frozen encoder's vector of the whole image, divided by its length; a zero vector stays zero.
* Similarity: the dot product, computed in float64.
* Neighbours: the ``k`` most similar fitted images (``evaluation.knn_k``, 20 by default); equal similarities are taken
  in row order, and rows are in the order of their image ids.
* Weight of a neighbour: exp(similarity / T), T = ``evaluation.knn_temperature``, 0.07 by default (the single-label
  weighting of Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018, as in
  DINO's ``eval_knn.py``).
* Score of a class: the weights of the neighbours that show it, divided by the weights of all neighbours. It lies in [0,
  1].
* Metric: average precision of each class over the scored images (``average_precision.py``), averaged over the classes.

Nothing is fitted or tuned: the same vectors always give the same number.
"""

import numpy as np
from numpy.typing import NDArray

CHUNK = 512  # queries at a time: bounds memory, changes nothing


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Divide each row by its Euclidean length; zero rows stay zero.

    Args:
        vectors: (n, D).

    Returns:
        (n, D) float64.
    """
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.where(lengths > 0, lengths, 1.0)
    return unit


def knn_scores(
    fit_vectors: NDArray[np.floating],
    fit_present: NDArray[np.bool_],
    query_vectors: NDArray[np.floating],
    k: int,
    temperature: float,
) -> NDArray[np.float64]:
    """Score every class for every query image from its nearest fitted images.

    Args:
        fit_vectors: (m, D) unit vectors.
        fit_present: (m, C) bool, what each fitted image shows.
        query_vectors: (n, D) unit vectors.
        k: neighbours, at least 1 and at most m.
        temperature: above 0; a small one trusts the nearest neighbours most.

    Returns:
        (n, C) float64 in [0, 1].

    Raises:
        ValueError: shapes disagree, k is not in [1, m], or the temperature is not above 0.
    """
    if fit_vectors.shape[1:] != query_vectors.shape[1:] or len(fit_present) != len(fit_vectors):
        raise ValueError(
            f"k-NN: fitted vectors {fit_vectors.shape}, their labels {fit_present.shape} and "
            f"queries {query_vectors.shape} do not go together"
        )
    if not 1 <= k <= len(fit_vectors):
        raise ValueError(
            f"k-NN: k = {k}, but {len(fit_vectors)} images are fitted on; "
            "set evaluation.knn_k between 1 and that number"
        )
    if temperature <= 0:
        raise ValueError(f"k-NN: the temperature must be above 0, got {temperature}; set evaluation.knn_temperature")
    fitted = np.asarray(fit_vectors, dtype=np.float64).T
    labels = np.asarray(fit_present, dtype=np.float64)
    scores = np.empty((len(query_vectors), labels.shape[1]), dtype=np.float64)
    for start in range(0, len(query_vectors), CHUNK):
        similarities = np.asarray(query_vectors[start : start + CHUNK], dtype=np.float64) @ fitted
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        closeness = np.take_along_axis(similarities, nearest, axis=1)
        # The largest is taken off first: it cancels in the ratio, and exp() cannot overflow at low temperatures.
        weights = np.exp((closeness - closeness[:, :1]) / temperature)
        scores[start : start + CHUNK] = np.einsum("qk,qkc->qc", weights, labels[nearest]) / weights.sum(
            axis=1, keepdims=True
        )
    return scores
