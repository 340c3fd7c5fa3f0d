"""One script a claim; results as JSON with machine and commit, figures drawn from them."""
