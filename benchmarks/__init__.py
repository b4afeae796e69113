"""What is fast, and how we know: each module measures ours beside the peer, in the same run."""
