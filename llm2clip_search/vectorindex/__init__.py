"""Vector indices: exact search, FAISS, and the policy that chooses between them."""
