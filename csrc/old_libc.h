// Included before every source, by setup.py. Of these functions glibc has several versions, and a library asks for the
// newest of the machine on which it is built. The oldest are asked for here, so that a wheel loads wherever torch does.
// Since then errno has changed, the sign of the NaN that a logarithm returns, and which library has dlopen and dlsym;
// torch has both loaded.
#pragma once

#include <cstddef>  // __GLIBC__

#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver dlopen, dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
__asm__(".symver exp, exp@GLIBC_2.2.5");
__asm__(".symver log, log@GLIBC_2.2.5");
__asm__(".symver log2, log2@GLIBC_2.2.5");
__asm__(".symver pow, pow@GLIBC_2.2.5");
#endif
