"""Corruptions, compared kind by kind with scipy, PIL, matplotlib and plain loops that get the same random numbers.

The settings are those of the code that Hendrycks and Dietterich (2019) published for CIFAR-10 and ImageNet.
"""

import io
import math

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from zoo.data import corruption_blurs as blurs
from zoo.data import corruption_weather as weather
from zoo.data import corruptions, shifts
from zoo.data.corruptions import KINDS, LARGE, SMALL, corrupt, generator
from zoo.data.jpeg import jpeg
from zoo.errors import BadInput

CPU = torch.device("cpu")


def drawn(num=3, channels=3, side=28, seed=0):
    """Draw smooth uint8 images with an edge, as pictures have."""
    draw = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(draw.normal(size=(num, channels, side, side)), (0, 0, 2, 2))
    images = (images - images.min()) / (images.max() - images.min())
    images[..., side // 3 : side // 2, :] *= 0.3
    return torch.from_numpy((255 * images).astype(np.uint8))


def as_float(images):
    return images.double() / 255


def fresh(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 7), (3, 65)])
def test_every_kind_keeps_shape_and_type_and_is_repeatable(kind, channels, side):
    images = drawn(2, channels, side)
    found = [corrupt(images, kind, 3, generator(kind, 3, seed, CPU)) for seed in (0, 0, 1)]
    assert found[0].shape == images.shape
    assert found[0].dtype == torch.uint8
    assert found[0].equal(found[1])
    random = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert not (random and side > 7 and found[0].equal(found[2]))  # a smaller image may be the same by chance
    assert random or found[0].equal(found[2])
    assert corrupt(images, kind, 5, generator(kind, 5, 0, CPU)).ne(images).any()


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"elastic_transform", "glass_blur"}))
def test_a_higher_severity_changes_more(kind):
    images = drawn(20)
    change = [(corrupt(images, kind, s, generator(kind, s, 0, CPU)).float() - images).abs().mean() for s in (1, 5)]
    assert change[1] > 1.2 * change[0] > 0


def test_the_severities_of_both_sizes_are_complete():
    assert len(KINDS) == 15
    for table in (SMALL, LARGE):
        assert tuple(table) == KINDS
        assert {len(rows) for rows in table.values()} == {5}


def test_noise_has_the_spread_of_its_setting():
    images = torch.full((8, 1, 60, 60), 128, dtype=torch.uint8)
    value = 128 / 255
    for severity, (sigma,) in enumerate(SMALL["gaussian_noise"], 1):
        noise = as_float(corrupt(images, "gaussian_noise", severity, fresh())) - value
        assert float(noise.std()) == pytest.approx(sigma, rel=0.02)
    for severity, (rate,) in enumerate(SMALL["shot_noise"], 1):
        noise = as_float(corrupt(images, "shot_noise", severity, fresh()))
        assert float(noise.mean()) == pytest.approx(value, abs=0.005)
        assert float(noise.std()) == pytest.approx(math.sqrt(value / rate), rel=0.03)
    for severity, (amount,) in enumerate(SMALL["impulse_noise"], 1):
        found = corrupt(images, "impulse_noise", severity, fresh())
        for extreme in (0, 255):
            assert float((found == extreme).double().mean()) == pytest.approx(amount / 2, rel=0.15)
        assert set(found.unique().tolist()) == {0, 128, 255}


@pytest.mark.parametrize(("radius", "edge"), [*SMALL["defocus_blur"], *LARGE["defocus_blur"]])
def test_defocus_is_a_disk_with_a_blurred_edge(radius, edge):
    size = 8 if radius <= 8 else radius
    steps = np.arange(-size, size + 1)
    disk = (steps**2 + steps[:, None] ** 2 <= radius**2).astype(float)
    reach = 1 if radius <= 8 else 2
    gauss = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * edge**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(gauss, gauss) / gauss.sum() ** 2, mode="mirror")
    images = drawn(2, side=40)
    expected = ndimage.correlate(as_float(images).numpy(), kernel[None, None], mode="mirror")
    found = blurs.defocus_blur(as_float(images), radius, edge)
    assert np.abs(found.numpy() - expected).max() < 1e-9


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_glass_copies_neighbours_from_the_last_to_the_first(severity):
    sigma, reach, rounds = SMALL["glass_blur"][severity - 1]
    images = drawn(2, 1, 12)
    found = blurs.glass_blur(as_float(images), sigma, reach, rounds, fresh())
    pixels = ndimage.gaussian_filter(as_float(images).numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    pixels, draw, rows = np.floor(255 * pixels + 1e-9) / 255, fresh(), range(12 - reach, reach, -1)
    for _ in range(rounds):
        moves = torch.randint(-reach, reach, (2, len(rows) ** 2, 2), generator=draw).numpy()
        for i, (row, column) in enumerate((row, column) for row in rows for column in rows):
            for n in range(2):
                pixels[n, :, row, column] = pixels[n, :, row + moves[0, i, n], column + moves[1, i, n]]
    expected = ndimage.gaussian_filter(pixels, (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert np.abs(found.numpy() - expected).max() < 1e-6


def test_motion_sums_pixels_along_a_line():
    images, degrees, (radius, sigma) = as_float(drawn(2, 1, 15)), torch.tensor([30.0, -100.0]), (6, 1.5)
    found = blurs.motion_blur(images, radius, sigma, degrees)
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    for n, angle in enumerate(np.radians(degrees.double().numpy())):
        expected = np.zeros((15, 15))
        for i, weight in enumerate(weights / weights.sum()):
            move = math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)
            for row in range(15):
                for column in range(15):
                    place = np.clip((row + move[0], column + move[1]), 0, 14)
                    expected[row, column] += weight * float(images[n, 0, place[0], place[1]])
        assert np.abs(found[n, 0].numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("factor", [1.0, 1.03, 1.1, 1.26, 2.25])
@pytest.mark.parametrize("side", [28, 33])
def test_zoom_is_scipys(factor, side):
    image = as_float(drawn(1, 1, side))[0, 0].numpy()
    cut = math.ceil(side / factor)
    top = (side - cut) // 2
    large = ndimage.zoom(image[top : top + cut, top : top + cut], factor, order=1)
    edge = (large.shape[0] - side) // 2
    found = blurs.clipped_zoom(torch.tensor(image)[None, None], factor)[0, 0]
    assert np.abs(found.numpy() - large[edge : edge + side, edge : edge + side]).max() < 1e-9


def test_zoom_blur_is_the_mean_of_zooms():
    images = drawn()
    factors = np.arange(1, 1.11, 0.01)
    mean = (as_float(images) + sum(blurs.clipped_zoom(as_float(images), f) for f in factors)) / (len(factors) + 1)
    found = corrupt(images, "zoom_blur", 2, fresh())
    assert (found.double() - (255 * mean).floor()).abs().max() <= 1


@pytest.mark.parametrize("severity", [1, 2, 3, 5])
def test_elastic_is_scipys_with_the_same_points_and_fields(severity):
    images, side = as_float(drawn(2, 1, 28)), 28
    strength, sigma, jitter = (side * one for one in SMALL["elastic_transform"][severity - 1])
    found, draw = blurs.elastic(images, strength, sigma, jitter, fresh()), fresh()
    moves = 2 * torch.rand(2, 3, 2, generator=draw).double().numpy() - 1
    fields = 2 * torch.rand(2, 2, side, side, generator=draw).double().numpy() - 1
    corners = np.array([[14 + 9, 14 + 9], [14 + 9, 14 - 9], [14 - 9, 14 - 9]], float)
    y, x = np.mgrid[:side, :side]
    for n in range(2):
        ends = np.c_[corners + jitter * moves[n], np.ones(3)]
        back = np.linalg.solve(ends, corners)  # from new places to old ones
        places = np.stack([x, y, np.ones_like(x)], -1) @ back
        warped = ndimage.map_coordinates(images[n, 0].numpy(), [places[..., 1], places[..., 0]], order=1, mode="mirror")
        dx, dy = (
            strength * ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) if sigma else 0 * field
            for field in fields[n]
        )
        expected = ndimage.map_coordinates(warped, [y + dy, x + dx], order=1, mode="reflect")
        assert np.abs(found[n, 0].numpy() - expected).max() < 1e-5


def test_plasma_is_a_diamond_square_field():
    num, side, decay = 2, 6, 2.5
    found, draw = weather.plasma(num, side, decay, fresh()), fresh()
    expected = np.zeros((num, 8, 8))

    def noise(count):
        return amount**2 * (2 * torch.rand(num, count, count, generator=draw).double().numpy() - 1)

    step, amount = 8, 100.0
    while step >= 2:
        half, count = step // 2, 8 // step
        for (down, across), near in {
            (half, half): [(-half, -half), (-half, half), (half, -half), (half, half)],
            (0, half): [(0, -half), (0, half), (-half, 0), (half, 0)],
            (half, 0): [(0, -half), (0, half), (-half, 0), (half, 0)],
        }.items():
            more = noise(count)
            for i in range(count):
                for j in range(count):
                    row, column = i * step + down, j * step + across
                    around = [expected[:, (row + a) % 8, (column + b) % 8] for a, b in near]
                    expected[:, row, column] = sum(around) / 4 + more[:, i, j]
        step, amount = half, amount / decay
    low, high = expected.min((1, 2), keepdims=True), expected.max((1, 2), keepdims=True)
    assert np.abs(found.numpy() - ((expected - low) / (high - low))[:, :side, :side]).max() < 1e-4


def test_fog_adds_plasma_and_keeps_the_brightest_value_possible():
    images, (amount, decay) = as_float(drawn()).float(), SMALL["fog"][2]
    found, clouds = weather.fog(images, amount, decay, fresh()), weather.plasma(3, 28, decay, fresh())
    for image, cloud, result in zip(images.numpy(), clouds.numpy(), found.numpy(), strict=True):
        expected = (image + amount * cloud) * image.max() / (image.max() + amount)
        assert np.abs(result - expected).max() < 1e-6


def test_snow_is_blurred_flakes_over_a_paler_image():
    images, settings = as_float(drawn(2)).float(), SMALL["snow"][3]
    mean, spread, zoom, threshold, radius, sigma, kept = settings
    found, draw = weather.snow(images, settings, fresh()).numpy(), fresh()
    noise = torch.randn(2, 1, 28, 28, generator=draw)
    flakes = blurs.clipped_zoom(mean + spread * noise, zoom).numpy()
    flakes[flakes < threshold] = 0
    flakes = np.uint8(255 * flakes.clip(0, 1)) / 255
    degrees = -135 + 90 * torch.rand(2, generator=draw)
    flakes = blurs.motion_blur(torch.tensor(flakes), radius, sigma, degrees).numpy()
    for image, layer, result in zip(images.numpy(), flakes[:, 0], found, strict=True):
        grey = np.tensordot([0.299, 0.587, 0.114], image, 1)
        paler = kept * image + (1 - kept) * np.maximum(image, 1.5 * grey + 0.5)
        assert np.abs(result - (paler + layer + np.rot90(layer, 2))).max() < 0.0045  # flakes in whole numbers of 255


def test_frost_keeps_a_part_of_the_image_and_adds_light():
    black, images = torch.zeros(2, 1, 28, 28), as_float(drawn(2, 1)).float()
    ice = weather.frost(black, 0.9, 0.4, fresh())
    assert 0 <= ice.min() < ice.max() <= 0.4
    torch.testing.assert_close(weather.frost(images, 0.9, 0.4, fresh()), 0.9 * images + ice)


@pytest.mark.parametrize("severity", [1, 5])
def test_brightness_is_matplotlibs_value(severity):
    images = drawn()
    images[0, :, :3] = 0
    (more,) = SMALL["brightness"][severity - 1]
    found = corrupt(images, "brightness", severity, fresh())
    hsv = rgb_to_hsv(as_float(images).permute(0, 2, 3, 1).numpy())
    hsv[..., 2] = (hsv[..., 2] + more).clip(0, 1)
    expected = 255 * hsv_to_rgb(hsv).transpose(0, 3, 1, 2)
    assert np.abs(found.numpy() - np.floor(expected + 1e-4)).max() <= 1
    assert np.abs(found.numpy() - np.floor(expected + 1e-4)).mean() < 0.01


def test_contrast_pulls_each_channel_to_its_mean():
    images = drawn()
    found, (factor,) = corrupt(images, "contrast", 4, fresh()), SMALL["contrast"][3]
    means = as_float(images).mean((2, 3), keepdim=True)
    assert (found.double() - 255 * ((as_float(images) - means) * factor + means)).abs().max() <= 1


@pytest.mark.parametrize("fraction", [0.95, 0.75, 0.65, 0.25])
@pytest.mark.parametrize("side", [28, 32, 80])
def test_pixelate_is_pils_box_filter(fraction, side):
    images = drawn(1, 3, side)
    small = int(side * fraction)
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    expected = picture.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BOX)
    found = corruptions.pixelate(images, fraction)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("quality", [80, 58, 40, 25, 7])
@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 28), (3, 48)])
def test_jpeg_is_pils(quality, channels, side):
    images, off, lost = drawn(8, channels, side), 0.0, 0.0
    for image, decoded in zip(images, jpeg(images, quality), strict=True):
        pixels, found = (one.permute(1, 2, 0).numpy().squeeze() for one in (image, decoded))
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "JPEG", quality=quality)
        expected = np.asarray(Image.open(content)).astype(int)
        off += np.abs(found - expected).mean() / 8
        lost += np.abs(pixels - expected).mean() / 8
    # libjpeg computes in whole numbers, so that some coefficients near a half are rounded to the other side.
    assert off < (0.1 if channels == 1 else 0.2) * lost


def test_images_of_other_channels_are_refused():
    with pytest.raises(BadInput, match="these have 2 channels"):
        corrupt(torch.zeros(1, 2, 8, 8, dtype=torch.uint8), "fog", 1, fresh())


def test_padding_is_numpys_also_beyond_the_image():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    for ours, numpys in {"mirror": "reflect", "reflect": "symmetric", "nearest": "edge"}.items():
        for pad in (0, 1, 3, 9):
            expected = np.pad(image[0, 0].numpy(), pad, mode=numpys)
            assert np.array_equal(blurs.padded(image, pad, ours)[0, 0].numpy(), expected)
    assert blurs.padded(torch.ones(1, 1, 1, 1), 2, "mirror").shape == (1, 1, 5, 5)


def test_shifts_are_scipys():
    images = drawn(1, 1, 20)
    image = images[0, 0].numpy()
    left, right, up, down = (one[0, 0].numpy() for one in shifts.translated(images, 0.1))
    for found, move in ((left, (0, -2)), (right, (0, 2)), (up, (-2, 0)), (down, (2, 0))):
        assert np.array_equal(found, ndimage.shift(image, move, order=0, mode="nearest"))
    turned = [one[0, 0].numpy().astype(int) for one in shifts.rotated(images, 30)]
    for found, angle in zip(turned, (30, -30), strict=True):
        expected = ndimage.rotate(image.astype(float), angle, reshape=False, order=1, mode="nearest")
        assert np.abs(found - expected).max() <= 0.51
    (brighter,) = shifts.brightened(images, 1.5)
    assert np.array_equal(brighter[0, 0], np.minimum(np.round(image * 1.5), 255))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_cuda_they_are_those_of_the_cpu_or_repeatable(kind):
    images, device = drawn(), torch.device("cuda")
    found = [corrupt(images.to(device), kind, 4, generator(kind, 4, 0, device)) for _ in range(2)]
    assert found[0].equal(found[1])
    if kind in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"):
        difference = found[0].cpu().int() - corrupt(images, kind, 4, generator(kind, 4, 0, CPU))
        assert difference.abs().double().mean() < 0.1
