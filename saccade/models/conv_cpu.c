// Convolutions of float32 maps and their gradients on a CPU; conv_cpu.py says who calls them with what.
//
// Maps have their channels last, [n, t, h, w, channels]. Two matrix products do all the work, in the textbook's way:
// a piece of ROWS x COLS sums stays in registers (12 of AVX2's 16) while what it is the sum of streams by. Who adds
// what, and in which order, does not depend on the number of threads.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(32), aligned(4)));
typedef long size;

enum { LANES = 8, ROWS = 6, COLS = 16, BLOCK = 96, DEPTH = 256, POINTS = 256 };

typedef struct {
    size n, t, h, w;                          // places of the output
    size to_n, to_t, to_h, to_w;              // from one to the next, floats
    size in_t, in_h, in_w;                    // places of the input
    size from_n, from_t, from_h, from_w;      // from one to the next, floats
    size stride_t, stride_h, stride_w;
    size pad_t, pad_h, pad_w;                 // zeros thought before the input; behind it are as many as it takes
    size taps_t, taps_h, taps_w;              // of the kernel
    size run, out;                            // floats of a place of the input (channels), channels of the output
    size threads;
} Shape;

typedef struct { size n, t, h, w; } Place;

static inline vec load(const float *p) { return *(const vec *)p; }
static inline void store(float *p, vec v) { *(vec *)p = v; }
static inline size least(size a, size b) { return a < b ? a : b; }
static inline size ceiling(size a, size b) { return (a + b - 1) / b; }
static inline size places(const Shape *s) { return s->n * s->t * s->h * s->w; }
static inline size taps(const Shape *s) { return s->taps_t * s->taps_h * s->taps_w; }
static inline size panel(const Shape *s) { return ceiling(s->out, COLS) * COLS * taps(s) * s->run; }

// Places [from, from + count) of the output.
static void list_places(const Shape *s, size from, size count, Place *at) {
    Place p = {from / s->w / s->h / s->t, from / s->w / s->h % s->t, from / s->w % s->h, from % s->w};
    for (size m = 0; m < count; m++) {
        at[m] = p;
        if (++p.w < s->w) continue;
        p.w = 0;
        if (++p.h < s->h) continue;
        p.h = 0;
        if (++p.t < s->t) continue;
        p.t = 0, p.n++;
    }
}

// The output in pieces of at most `most` places. Of large frames, the same part of each frame in turn: taps along time
// then find it in the caches.
static size pieces(const Shape *s, size most) {
    size frame = s->h * s->w;
    return frame < most ? ceiling(places(s), most) : s->n * s->t * ceiling(frame, most);
}

static size piece(const Shape *s, size most, size i, size *from) {
    size frame = s->h * s->w, parts = ceiling(frame, most), part = i / s->t % parts * most;
    if (frame < most) {
        *from = i * most;
        return least(most, places(s) - *from);
    }
    *from = (i / s->t / parts * s->t + i % s->t) * frame + part;
    return least(most, frame - part);
}

// Where a tap of the kernel looks, from the first place of the input that belongs to a place of the output.
static inline Place look(const Shape *s, size tap) {
    return (Place){0, tap / s->taps_w / s->taps_h - s->pad_t, tap / s->taps_w % s->taps_h - s->pad_h,
        tap % s->taps_w - s->pad_w};
}

// What it sees there for a place of the output.
static inline const float *seen(const Shape *s, const float *x, Place at, Place tap, const float *zeros) {
    size t = at.t * s->stride_t + tap.t, h = at.h * s->stride_h + tap.h, w = at.w * s->stride_w + tap.w;
    if (t < 0 || t >= s->in_t || h < 0 || h >= s->in_h || w < 0 || w >= s->in_w) return zeros;
    return x + at.n * s->from_n + t * s->from_t + h * s->from_h + w * s->from_w;
}

// sums[r][c] += sum_i a[r][i] * b[i][c]
static inline void rows_by_panel(size depth, const float *const a[ROWS], const float *b, float *sums) {
    vec s[ROWS][2];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2; v++) s[r][v] = load(sums + r * COLS + v * LANES);
    for (size i = 0; i < depth; i++) {
        vec b0 = load(b + i * COLS), b1 = load(b + i * COLS + LANES);
        for (int r = 0; r < ROWS; r++) {
            s[r][0] += a[r][i] * b0;
            s[r][1] += a[r][i] * b1;
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < 2; v++) store(sums + r * COLS + v * LANES, s[r][v]);
}

// sums[r][c] += sum_m a[m][r] * b[m][c] for r < rows and c < cols; the rows of `sums` are `step` apart.
static inline void panel_by_panel(
    size count, const float *a, const float *b, float *sums, size step, size rows, size cols) {
    vec s[ROWS][2];
    memset(s, 0, sizeof s);
    for (size m = 0; m < count; m++) {
        vec b0 = load(b + m * COLS), b1 = load(b + m * COLS + LANES);
        for (int r = 0; r < ROWS; r++) {
            s[r][0] += a[m * ROWS + r] * b0;
            s[r][1] += a[m * ROWS + r] * b1;
        }
    }
    if (rows == ROWS && cols == COLS) {
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < 2; v++) {
                float *to = sums + r * step + v * LANES;
                store(to, load(to) + s[r][v]);
            }
        return;
    }
    float found[ROWS * COLS];
    memcpy(found, s, sizeof s);
    for (size r = 0; r < rows; r++)
        for (size c = 0; c < cols; c++) sums[r * step + c] += found[r * COLS + c];
}

// Places [from, from + count) of the output, count <= BLOCK.
static void convolve_block(const Shape *s, const float *x, const float *kernel, float *y, size from, size count,
    const float *zeros) {
    Place at[BLOCK];
    const float *row[BLOCK];
    float sums[BLOCK * COLS];
    list_places(s, from, count, at);
    for (size m = count; m < BLOCK; m++) at[m] = at[count - 1];
    for (size k = 0; k < s->out; k += COLS) {
        memset(sums, 0, sizeof sums);
        for (size tap = 0; tap < taps(s); tap++, kernel += s->run * COLS) {
            Place there = look(s, tap);
            for (size m = 0; m < BLOCK; m++) row[m] = seen(s, x, at[m], there, zeros);
            for (size d = 0; d < s->run; d += DEPTH)
                for (size m = 0; m < count; m += ROWS) {
                    const float *a[ROWS];
                    int any = 0;
                    for (int r = 0; r < ROWS; r++) any |= row[m + r] != zeros, a[r] = row[m + r] + d;
                    if (any) rows_by_panel(least(DEPTH, s->run - d), a, kernel + d * COLS, sums + m * COLS);
                }
        }
        for (size m = 0; m < count; m++) {
            float *to = y + at[m].n * s->to_n + at[m].t * s->to_t + at[m].h * s->to_h + at[m].w * s->to_w;
            memcpy(to + k, sums + m * COLS, least(COLS, s->out - k) * sizeof(float));
        }
    }
}

// y [n, t, h, w, out] of x by a kernel [out / COLS][taps][run][COLS].
void convolve(const Shape *s, const float *x, const float *kernel, float *y) {
    float *zeros = calloc(s->run, sizeof(float));
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (size i = 0; i < pieces(s, BLOCK); i++) {
        size from, count = piece(s, BLOCK, i, &from);
        convolve_block(s, x, kernel, y, from, count, zeros);
    }
    free(zeros);
}

// Room for a thread's `gradient_units`.
static float *room(const Shape *s) {
    return calloc((ceiling(s->out, ROWS) * ROWS + COLS) * POINTS, sizeof(float));
}

// COLS of the floats that a tap sees, from the c-th on, at places of the output.
static void gather(const Shape *s, const float *x, const Place *at, size count, size tap, size c, float *b,
    const float *zeros) {
    size cols = least(COLS, s->run - c);
    Place there = look(s, tap);
    for (size m = 0; m < count; m++, b += COLS) {
        const float *from = seen(s, x, at[m], there, zeros) + c;
        if (cols == COLS) {
            store(b, load(from));
            store(b + LANES, load(from + LANES));
        } else
            for (size i = 0; i < cols; i++) b[i] = from[i];
    }
}

// Adds to units [first, last) of a gradient [out][taps][run]; a unit is COLS of the floats that one tap sees.
static void gradient_units(const Shape *s, const float *x, const float *dy, float *gradient, size first, size last,
    float *a, const float *zeros) {
    size units = ceiling(s->run, COLS), step = taps(s) * s->run;
    float *b = a + ceiling(s->out, ROWS) * ROWS * POINTS;
    Place at[POINTS];
    for (size i = 0; i < pieces(s, POINTS); i++) {
        size from, count = piece(s, POINTS, i, &from);
        list_places(s, from, count, at);
        for (size k = 0; k < s->out; k += ROWS)  // dy as [out / ROWS][POINTS][ROWS]
            for (size m = 0; m < count; m++) {
                const float *row = dy + (from + m) * s->out + k;
                float *to = a + k * POINTS + m * ROWS;
                if (k + ROWS <= s->out)
                    for (size r = 0; r < ROWS; r++) to[r] = row[r];
                else
                    for (size r = 0; r < s->out - k; r++) to[r] = row[r];
            }
        for (size unit = first; unit < last; unit++) {
            size tap = unit / units, c = unit % units * COLS, cols = least(COLS, s->run - c);
            gather(s, x, at, count, tap, c, b, zeros);
            for (size k = 0; k < s->out; k += ROWS)
                panel_by_panel(count, a + k * POINTS, b, gradient + k * step + tap * s->run + c, step,
                    least(ROWS, s->out - k), cols);
        }
    }
}

// Adds what x and dy [n, t, h, w, out] give to a gradient [out, taps, run].
void convolve_gradient(const Shape *s, const float *x, const float *dy, float *gradient) {
    size units = taps(s) * ceiling(s->run, COLS);
    float *zeros = calloc(s->run, sizeof(float));
#pragma omp parallel num_threads(s->threads)
    {
        size part = omp_get_thread_num(), parts = omp_get_num_threads();
        float *own = room(s);
        gradient_units(s, x, dy, gradient, units * part / parts, units * (part + 1) / parts, own, zeros);
        free(own);
    }
    free(zeros);
}

typedef struct { size k, t, h, w, c; } Strides;

// The kernel as `convolve` wants it, [out / COLS][taps][run][COLS], of w [out, taps_t, taps_h, taps_w, run] of any
// strides (floats).
void pack(const Shape *s, const float *w, Strides by, float *packed) {
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (size block = 0; block < ceiling(s->out, COLS); block++)
        for (size tap = 0; tap < taps(s); tap++) {
            size cols = least(COLS, s->out - block * COLS);
            float *to = packed + (block * taps(s) + tap) * s->run * COLS;
            const float *from = w + block * COLS * by.k + tap / s->taps_w / s->taps_h * by.t +
                tap / s->taps_w % s->taps_h * by.h + tap % s->taps_w * by.w;
            for (size c = 0; c < s->run; c++)
                for (size k = 0; k < COLS; k++) to[c * COLS + k] = k < cols ? from[c * by.c + k * by.k] : 0;
        }
}
