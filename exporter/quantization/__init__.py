"""Which integers a model becomes: everything that adds to the `plan`, and its meaning in integers.

In the order of the pipeline: `equalization` changes the graph, `choosing` and `clipping` the ranges, `planner` makes encodings of them,
`refinement` fits weights and biases, `mixing` takes nodes out of the 8 bits; `deciding` puts these together. `given` keeps what a quantized
source brings, `agreeing` moves scales for the sake of kernels, `integers` and `simulate` say what a plan computes.
"""
