"""Deep Defense, one image at a time; DeepFool is handed in."""

import math


def loss(net, x, y, *, deepfool, weight, c, d):
    risk = penalty = 0.0
    for image, label in zip(x, y.tolist(), strict=True):
        z = net(image[None])[0]
        risk = risk + z.exp().sum().log() - z[label]
        delta, correct, _ = deepfool(net, image, label)
        size = delta.square().sum().sqrt() if delta.any() else delta.sum()
        rho = size / image.square().sum().sqrt()
        penalty = penalty + ((-c * rho).exp() if correct else (d * rho).clamp_max(math.log(50)).exp())
    return (risk + weight * penalty) / len(y)
