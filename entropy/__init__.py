"""Everything between a real-valued latent and bytes: quantizers, entropy models, integer tables, coder, container."""
