/* The codec's loops over single entries, compiled: what loops_numpy.py says in numpy, with the same results.
 *
 * Every function takes the buffers of numpy arrays, checks that they are as long as its arguments need before it touches
 * them (ValueError: our own mistake), and lets go of the interpreter while it runs. A plane of a frame is a peer's: where
 * one contradicts the tables, the function returns false, and never writes outside its buffers whatever the bytes.
 * Built against the stable ABI: one library serves Python 3.11 and all later ones.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "frames are little-endian: numpy serves this machine"
#endif

#define MAX_LEVEL ((INT64_C(1) << 30) - 1)
#define ESCAPE 255

/* Each plane says which of `domain` things go on. With `first` these are places 0, 1, 2, ..., and those that go on are
 * written to `passed`; else they are the ones that passed so far, and those that go on move to the front of `passed`,
 * which is safe in place: the i-th that goes on never stood before i. */
#define GO_ON(place) (passed[found] = first ? (int32_t)(place) : passed[place], found++)
#define INLINE static inline __attribute__((always_inline))

INLINE int bitmap(const uint8_t *plane, int64_t domain, int64_t count, int32_t *passed, const int first)
{
    int64_t bytes = (domain + 7) / 8, found = 0;
    if (domain % 8 && plane[bytes - 1] >> domain % 8)
        return 0;
    for (int64_t at = 0; at < bytes; at += 8) {
        uint64_t word = 0;
        if (bytes - at >= 8)
            memcpy(&word, plane + at, 8);
        else
            memcpy(&word, plane + at, (size_t)(bytes - at));
        if (found + __builtin_popcountll(word) > count)
            return 0;
        int64_t base = at * 8;
        if (word == UINT64_MAX)
            for (int64_t bit = 0; bit < 64; bit++)
                GO_ON(base + bit);
        else
            for (; word; word &= word - 1)
                GO_ON(base + __builtin_ctzll(word));
    }
    return found == count;
}

/* The same from the bytes of the quotients of gaps and the planes of their low bits. */
INLINE int gaps(const uint8_t *quotients, int64_t length, const uint8_t *low, int shift, int64_t count, int64_t domain,
                int32_t *passed, const int first)
{
    int64_t place = -1, at = 0, found = 0;
    while (found < count) {
        int64_t quotient = 0;
        for (; at < length && quotients[at] == ESCAPE; at++)
            quotient += ESCAPE;
        if (at >= length)
            return 0;
        quotient += quotients[at++];
        int64_t gap = quotient << shift;
        for (int bit = 0; bit < shift; bit++) {
            int64_t index = bit * count + found;
            gap |= (int64_t)(low[index >> 3] >> (index & 7) & 1) << bit;
        }
        place += gap + 1;
        if (place >= domain)
            return 0;
        GO_ON(place);
    }
    return at == length;
}

/* The entries that passed have at least this level. */
static int lift(const int32_t *passed, int64_t count, int32_t level, int32_t *levels, int64_t total)
{
    for (int64_t i = 0; i < count; i++) {
        if (passed[i] < 0 || passed[i] >= total)
            return 0;
        levels[passed[i]] = level;
    }
    return 1;
}

/* Levels of the entries that passed (of all, without `passed`) from digits of `width` bits; the entries whose digit is
 * continued go to `beyond`. */
static int64_t digits(const uint8_t *plane, int width, const int32_t *passed, int64_t count, int32_t base,
                      int32_t *levels, int64_t total, int32_t *beyond, int64_t exceptions)
{
    int64_t found = 0;
    int32_t most = (1 << width) - 1;
    for (int64_t i = 0; i < count; i++) {
        int32_t digit = width == 8 ? plane[i] : plane[i >> 1] >> (i & 1) * 4 & 15;
        int32_t entry = passed ? passed[i] : (int32_t)i;
        if (entry < 0 || entry >= total)
            return -1;
        if (digit == most) {
            if (found == exceptions)
                return -1;
            beyond[found++] = entry;
        }
        levels[entry] = digit + base;
    }
    if (width == 4 && count & 1 && plane[count >> 1] >> 4)
        return -1;
    return found;
}

/* Add one byte of its excess to each continued level; stops at the first that leaves the range. */
static int carry(int32_t *levels, int64_t total, const int32_t *beyond, int64_t count, const uint8_t *plane, int shift)
{
    for (int64_t i = 0; i < count; i++) {
        if (beyond[i] < 0 || beyond[i] >= total)
            return 0;
        int64_t level = (int64_t)levels[beyond[i]] + ((int64_t)plane[i] << shift);
        if (level > MAX_LEVEL)
            return 0;
        levels[beyond[i]] = (int32_t)level;
    }
    return 1;
}

static void negate(int32_t *restrict levels, const uint8_t *restrict signs, int64_t count)
{
    for (int64_t byte = 0; byte < count / 8; byte++, levels += 8)
        for (int bit = 0; bit < 8; bit++) {
            int32_t minus = signs[byte] & 1 << bit ? -1 : 0;
            levels[bit] = (levels[bit] ^ minus) - minus;
        }
    for (int bit = 0; bit < count % 8; bit++)
        if (signs[count / 8] & 1 << bit)
            levels[bit] = -levels[bit];
}

/* Old level and new one, brought to one grid. */
static int64_t sum_at(const int32_t *state, int32_t place, int32_t level, int older, int newer)
{
    return (int64_t)state[place] * (INT64_C(1) << older) + (int64_t)level * (INT64_C(1) << newer);
}

static int sums_fit(const int32_t *state, int64_t length, const int32_t *places, const int32_t *levels, int64_t count,
                    int older, int newer)
{
    for (int64_t i = 0; i < count; i++) {
        if (places[i] < 0 || places[i] >= length)
            return 0;
        int64_t sum = sum_at(state, places[i], levels[i], older, newer);
        if (sum > MAX_LEVEL || sum < -MAX_LEVEL)
            return 0;
    }
    return 1;
}

/* Stops at the first sum that leaves the range; those before it stay added. */
static int add(int32_t *state, int64_t length, const int32_t *places, const int32_t *levels, int64_t count, int newer)
{
    for (int64_t i = 0; i < count; i++) {
        if (places[i] < 0 || places[i] >= length)
            return 0;
        int64_t sum = sum_at(state, places[i], levels[i], 0, newer);
        if (sum > MAX_LEVEL || sum < -MAX_LEVEL)
            return 0;
        state[places[i]] = (int32_t)sum;
    }
    return 1;
}

/* The sums of the low and of the high halves of level * key(place). */
static void hash(int64_t start, const int32_t *places, const int32_t *levels, int64_t count, int64_t *low, int64_t *high)
{
    int64_t lows = 0, highs = 0;
    for (int64_t i = 0; i < count; i++) {
        uint64_t z = (uint64_t)(start + places[i]) + UINT64_C(0x9E3779B97F4A7C15);
        z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
        z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
        int64_t product = (int64_t)(z >> 33 | 1) * levels[i];
        lows += (int64_t)(uint32_t)product;
        highs += product >> 32;
    }
    *low = lows;
    *high = highs;
}

/* ---- Encoding: our own arrays, whose values the caller vouches for but for what is checked here. ---- */

/* A one for each place; the plane was zero. */
static int set_bits(const int32_t *places, int64_t count, uint8_t *plane, int64_t domain)
{
    for (int64_t i = 0; i < count; i++) {
        if (places[i] < 0 || places[i] >= domain)
            return 0;
        plane[places[i] >> 3] |= (uint8_t)(1 << (places[i] & 7));
    }
    return 1;
}

/* Bytes of the quotients, returned is their number or -1; the planes of low bits were zero. */
static int64_t gap_bytes(const int32_t *places, int64_t count, int shift, uint8_t *quotients, int64_t room, uint8_t *low)
{
    int64_t length = 0, previous = -1;
    for (int64_t i = 0; i < count; i++) {
        int64_t gap = places[i] - previous - 1, quotient = gap >> shift;
        if (gap < 0 || length + quotient / ESCAPE >= room)
            return -1;
        previous = places[i];
        for (; quotient >= ESCAPE; quotient -= ESCAPE)
            quotients[length++] = ESCAPE;
        quotients[length++] = (uint8_t)quotient;
        for (int bit = 0; bit < shift; bit++) {
            int64_t index = bit * count + i;
            low[index >> 3] |= (uint8_t)((gap >> bit & 1) << (index & 7));
        }
    }
    return length;
}

/* Magnitudes, and a one for each negative value; the plane was zero. */
static void split_signs(const int32_t *values, int64_t count, int32_t *magnitudes, uint8_t *signs)
{
    for (int64_t i = 0; i < count; i++) {
        int32_t minus = values[i] >> 31;
        magnitudes[i] = (values[i] ^ minus) - minus;
        signs[i >> 3] |= (uint8_t)((minus & 1) << (i & 7));
    }
}

/* Where a level is above `least`, and those levels; returned is their number. Both outputs have room for all. */
static int64_t above(const int32_t *levels, int64_t count, int32_t least, int32_t *places, int32_t *kept)
{
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        places[found] = (int32_t)i;
        kept[found] = levels[i];
        found += levels[i] > least;
    }
    return found;
}

/* Digits of level - base, and what exceeds a digit; returned is the number of excesses. The plane was zero. */
static int64_t pack_digits(const int32_t *levels, int64_t count, int32_t base, int width, uint8_t *plane,
                           uint32_t *excess, int64_t room)
{
    int64_t found = 0;
    int32_t most = (1 << width) - 1;
    for (int64_t i = 0; i < count; i++) {
        int32_t rest = levels[i] - base, digit = rest < most ? rest : most;
        if (rest < 0 || (rest >= most && found == room))
            return -1;
        if (rest >= most)
            excess[found++] = (uint32_t)(rest - most);
        if (width == 8)
            plane[i] = (uint8_t)digit;
        else
            plane[i >> 1] |= (uint8_t)(digit << (i & 1) * 4);
    }
    return found;
}

/* ---- The door to Python. ---- */

static int fits(const Py_buffer *buffer, int64_t items, int64_t size)
{
    return items >= 0 && items <= INT32_MAX && buffer->len >= items * size;
}

static PyObject *too_short(void)
{
    PyErr_SetString(PyExc_ValueError, "a buffer is shorter than the call needs");
    return NULL;
}

static PyObject *py_bitmap(PyObject *self, PyObject *args)
{
    Py_buffer plane, passed;
    long long domain, count;
    int first, ok = 0;
    if (!PyArg_ParseTuple(args, "y*LLw*p", &plane, &domain, &count, &passed, &first))
        return NULL;
    int enough = fits(&passed, first ? count : domain, 4) && domain >= 0 && fits(&plane, (domain + 7) / 8, 1);
    if (enough && count >= 0) {
        Py_BEGIN_ALLOW_THREADS;
        ok = first ? bitmap(plane.buf, domain, count, passed.buf, 1) : bitmap(plane.buf, domain, count, passed.buf, 0);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&plane);
    PyBuffer_Release(&passed);
    return enough ? PyBool_FromLong(ok) : too_short();
}

static PyObject *py_gaps(PyObject *self, PyObject *args)
{
    Py_buffer quotients, low, passed;
    long long count, domain;
    int shift, first, ok = 0;
    if (!PyArg_ParseTuple(args, "y*y*iLLw*p", &quotients, &low, &shift, &count, &domain, &passed, &first))
        return NULL;
    int enough = shift >= 0 && shift <= 24 && fits(&passed, first ? count : domain, 4) && count >= 0 &&
                 low.len >= (shift * count + 7) / 8;
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        ok = first ? gaps(quotients.buf, quotients.len, low.buf, shift, count, domain, passed.buf, 1)
                   : gaps(quotients.buf, quotients.len, low.buf, shift, count, domain, passed.buf, 0);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&quotients);
    PyBuffer_Release(&low);
    PyBuffer_Release(&passed);
    return enough ? PyBool_FromLong(ok) : too_short();
}

static PyObject *py_lift(PyObject *self, PyObject *args)
{
    Py_buffer passed, levels;
    int level, ok;
    if (!PyArg_ParseTuple(args, "y*iw*", &passed, &level, &levels))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    ok = lift(passed.buf, passed.len / 4, level, levels.buf, levels.len / 4);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&passed);
    PyBuffer_Release(&levels);
    return PyBool_FromLong(ok);
}

static PyObject *py_digits(PyObject *self, PyObject *args)
{
    Py_buffer plane, passed, levels, beyond;
    int width, base, all;
    int64_t found = 0;
    if (!PyArg_ParseTuple(args, "y*iy*piw*w*", &plane, &width, &passed, &all, &base, &levels, &beyond))
        return NULL;
    int64_t count = (all ? levels.len : passed.len) / 4, exceptions = beyond.len / 4;
    int enough = (width == 4 || width == 8) && fits(&plane, (count * width + 7) / 8, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        found = digits(plane.buf, width, all ? NULL : passed.buf, count, base, levels.buf, levels.len / 4, beyond.buf,
                       exceptions);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&plane);
    PyBuffer_Release(&passed);
    PyBuffer_Release(&levels);
    PyBuffer_Release(&beyond);
    return enough ? PyBool_FromLong(found == exceptions) : too_short();
}

static PyObject *py_carry(PyObject *self, PyObject *args)
{
    Py_buffer levels, beyond, plane;
    int shift, ok = 0;
    if (!PyArg_ParseTuple(args, "w*y*y*i", &levels, &beyond, &plane, &shift))
        return NULL;
    int64_t count = beyond.len / 4;
    int enough = shift >= 0 && shift <= 24 && fits(&plane, count, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        ok = carry(levels.buf, levels.len / 4, beyond.buf, count, plane.buf, shift);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&beyond);
    PyBuffer_Release(&plane);
    return enough ? PyBool_FromLong(ok) : too_short();
}

static PyObject *py_negate(PyObject *self, PyObject *args)
{
    Py_buffer levels, signs;
    if (!PyArg_ParseTuple(args, "w*y*", &levels, &signs))
        return NULL;
    int64_t count = levels.len / 4;
    int enough = fits(&signs, (count + 7) / 8, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        negate(levels.buf, signs.buf, count);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&signs);
    return enough ? PyBool_FromLong(1) : too_short();
}

static PyObject *py_sums_fit(PyObject *self, PyObject *args)
{
    Py_buffer state, places, levels;
    int older, newer, ok = 0;
    if (!PyArg_ParseTuple(args, "y*y*y*ii", &state, &places, &levels, &older, &newer))
        return NULL;
    int enough = older >= 0 && older <= 31 && newer >= 0 && newer <= 30 && levels.len == places.len;
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        ok = sums_fit(state.buf, state.len / 4, places.buf, levels.buf, places.len / 4, older, newer);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&state);
    PyBuffer_Release(&places);
    PyBuffer_Release(&levels);
    return enough ? PyBool_FromLong(ok) : too_short();
}

static PyObject *py_add(PyObject *self, PyObject *args)
{
    Py_buffer state, places, levels;
    int newer, ok = 0;
    if (!PyArg_ParseTuple(args, "w*y*y*i", &state, &places, &levels, &newer))
        return NULL;
    int enough = newer >= 0 && newer <= 30 && levels.len == places.len;
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        ok = add(state.buf, state.len / 4, places.buf, levels.buf, places.len / 4, newer);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&state);
    PyBuffer_Release(&places);
    PyBuffer_Release(&levels);
    return enough ? PyBool_FromLong(ok) : too_short();
}

static PyObject *py_hash(PyObject *self, PyObject *args)
{
    Py_buffer places, levels;
    long long start;
    int64_t low = 0, high = 0;
    if (!PyArg_ParseTuple(args, "Ly*y*", &start, &places, &levels))
        return NULL;
    int enough = levels.len == places.len;
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        hash(start, places.buf, levels.buf, places.len / 4, &low, &high);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&places);
    PyBuffer_Release(&levels);
    return enough ? Py_BuildValue("LL", (long long)low, (long long)high) : too_short();
}

static PyObject *py_set_bits(PyObject *self, PyObject *args)
{
    Py_buffer places, plane;
    long long domain;
    int ok = 0;
    if (!PyArg_ParseTuple(args, "y*w*L", &places, &plane, &domain))
        return NULL;
    int enough = domain >= 0 && fits(&plane, (domain + 7) / 8, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        ok = set_bits(places.buf, places.len / 4, plane.buf, domain);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&places);
    PyBuffer_Release(&plane);
    return enough ? PyBool_FromLong(ok) : too_short();
}

static PyObject *py_gap_bytes(PyObject *self, PyObject *args)
{
    Py_buffer places, quotients, low;
    int shift;
    int64_t length = 0;
    if (!PyArg_ParseTuple(args, "y*iw*w*", &places, &shift, &quotients, &low))
        return NULL;
    int64_t count = places.len / 4;
    int enough = shift >= 0 && shift <= 24 && fits(&low, (shift * count + 7) / 8, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        length = gap_bytes(places.buf, count, shift, quotients.buf, quotients.len, low.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&places);
    PyBuffer_Release(&quotients);
    PyBuffer_Release(&low);
    return enough ? PyLong_FromLongLong(length) : too_short();
}

static PyObject *py_split_signs(PyObject *self, PyObject *args)
{
    Py_buffer values, magnitudes, signs;
    if (!PyArg_ParseTuple(args, "y*w*w*", &values, &magnitudes, &signs))
        return NULL;
    int64_t count = values.len / 4;
    int enough = fits(&magnitudes, count, 4) && fits(&signs, (count + 7) / 8, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        split_signs(values.buf, count, magnitudes.buf, signs.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&magnitudes);
    PyBuffer_Release(&signs);
    return enough ? PyBool_FromLong(1) : too_short();
}

static PyObject *py_above(PyObject *self, PyObject *args)
{
    Py_buffer levels, places, kept;
    int least;
    int64_t found = 0;
    if (!PyArg_ParseTuple(args, "y*iw*w*", &levels, &least, &places, &kept))
        return NULL;
    int64_t count = levels.len / 4;
    int enough = fits(&places, count, 4) && fits(&kept, count, 4);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        found = above(levels.buf, count, least, places.buf, kept.buf);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&places);
    PyBuffer_Release(&kept);
    return enough ? PyLong_FromLongLong(found) : too_short();
}

static PyObject *py_pack_digits(PyObject *self, PyObject *args)
{
    Py_buffer levels, plane, excess;
    int base, width;
    int64_t found = 0;
    if (!PyArg_ParseTuple(args, "y*iiw*w*", &levels, &base, &width, &plane, &excess))
        return NULL;
    int64_t count = levels.len / 4;
    int enough = (width == 4 || width == 8) && fits(&plane, (count * width + 7) / 8, 1);
    if (enough) {
        Py_BEGIN_ALLOW_THREADS;
        found = pack_digits(levels.buf, count, base, width, plane.buf, excess.buf, excess.len / 4);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&levels);
    PyBuffer_Release(&plane);
    PyBuffer_Release(&excess);
    return enough ? PyLong_FromLongLong(found) : too_short();
}

static PyMethodDef methods[] = {
    {"bitmap", py_bitmap, METH_VARARGS, "bitmap(plane, domain, count, passed, first) -> bool"},
    {"gaps", py_gaps, METH_VARARGS, "gaps(quotients, low, shift, count, domain, passed, first) -> bool"},
    {"lift", py_lift, METH_VARARGS, "lift(passed, level, levels) -> bool"},
    {"digits", py_digits, METH_VARARGS, "digits(plane, width, passed, all, base, levels, beyond) -> bool"},
    {"carry", py_carry, METH_VARARGS, "carry(levels, beyond, plane, shift) -> bool"},
    {"negate", py_negate, METH_VARARGS, "negate(levels, signs) -> bool"},
    {"sums_fit", py_sums_fit, METH_VARARGS, "sums_fit(state, places, levels, older, newer) -> bool"},
    {"add", py_add, METH_VARARGS, "add(state, places, levels, newer) -> bool"},
    {"hash", py_hash, METH_VARARGS, "hash(start, places, levels) -> (low, high)"},
    {"set_bits", py_set_bits, METH_VARARGS, "set_bits(places, plane, domain) -> bool"},
    {"gap_bytes", py_gap_bytes, METH_VARARGS, "gap_bytes(places, shift, quotients, low) -> length or -1"},
    {"split_signs", py_split_signs, METH_VARARGS, "split_signs(values, magnitudes, signs) -> bool"},
    {"above", py_above, METH_VARARGS, "above(levels, least, places, kept) -> number"},
    {"pack_digits", py_pack_digits, METH_VARARGS, "pack_digits(levels, base, width, plane, excess) -> number or -1"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kernel", "The codec's loops over single entries, compiled.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernel(void)
{
    return PyModuleDef_Init(&module);
}
