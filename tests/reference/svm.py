"""Three multi-class hinge losses, one example at a time."""


def hinge(z, label, form):
    """The loss of one example with logits z [K]."""
    rivals = [k for k in range(len(z)) if k != label]
    if form == "crammer_singer":
        return max(0 * z[0], 1 - z[label] + max(z[k] for k in rivals))
    if form == "weston_watkins":
        return sum(max(0 * z[0], 1 - z[label] + z[k]) for k in rivals)
    machines = [1 - z[k] if k == label else 1 + z[k] for k in range(len(z))]
    return sum(max(0 * z[0], shortfall) ** 2 for shortfall in machines)


def loss(net, x, y, *, form, weight_penalty):
    """Mean hinge plus the penalty on every entry of the head's weight."""
    total = sum(hinge(z, label, form) for z, label in zip(net(x), y.tolist(), strict=True))
    squares = sum(value**2 for value in net.head.weight.flatten())
    return total / len(y) + weight_penalty * squares
