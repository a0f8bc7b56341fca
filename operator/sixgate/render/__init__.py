"""Templates that turn the plan of a node into its NodeConfig."""

from sixgate.render.renderer import Rendered, Renderer, TemplateFailed

__all__ = ["Rendered", "Renderer", "TemplateFailed"]
