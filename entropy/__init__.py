"""Everything between a real-valued latent and bytes, shared by all modalities: quantizers, entropy models, integer tables, coder, container."""
