#ifndef SG_ICMP_XLAT_H
#define SG_ICMP_XLAT_H
SG_STAGE int sg_icmp_xlat(sg_ctx *ctx, const struct sg_nat_table *t, struct sg_work *w){ (void)ctx;(void)w;(void)t; return SG_DROP_ICMP_TYPE; }
#endif
