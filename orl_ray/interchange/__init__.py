"""The JSON files of the published reference (Jiahao000/ORL @ 2ad64f7): proposals, k-NN and correspondences."""
