"""Muon (Jordan et al. 2024): momentum whose update is made orthogonal, for the weight matrices inside the
network; everything else (embeddings, first and last convolution, norms, biases) stays with AdamW."""
import torch


@torch.no_grad()
def orthogonal(g, steps=5):
    """Nearest semi-orthogonal matrices, roughly: singular values land near 1. g [B, m, n], m <= n."""
    x = (g / (torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True) + 1e-7)).bfloat16().contiguous()
    for _ in range(steps):
        a = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x


class Muon:
    def __init__(self, parameters, momentum=0.95):
        self.momentum, shapes = momentum, {}
        for p in parameters:
            shapes.setdefault((p.shape[0], p[0].numel()), []).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape)) for shape, ps in shapes.items()]

    @torch.no_grad()
    def step(self, rate, decay=0.01):
        """`rate` is the spectral norm of the update of a square matrix."""
        for parameters, buffer in self.groups:
            rows, columns = buffer.shape[1:]
            g = torch.stack([p.grad.reshape(rows, columns) for p in parameters])
            buffer.lerp_(g, 1 - self.momentum)
            g = g.lerp_(buffer, self.momentum)  # Nesterov
            update = orthogonal(g.transpose(1, 2)).transpose(1, 2) if rows > columns else orthogonal(g)
            scale = rate * max(1, rows / columns) ** 0.5
            torch._foreach_mul_(parameters, 1 - rate * decay)
            torch._foreach_sub_(parameters, [u.reshape(p.shape) for p, u in zip(parameters, update.float())], alpha=scale)
