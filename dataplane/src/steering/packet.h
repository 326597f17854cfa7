/*
 * What a packet is, read off its octets as far as steering asks.
 *
 * Rule: whatever cannot be read (cut short, an extension header not known here) reads as nothing.
 *
 * Sources: RFC 791, RFC 8200 section 4; IEEE 802.1Q.
 */
#pragma once

#include <stdbool.h>

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* 802.1Q tags read in front of the IP header; a frame with more stays in the kernel. */
#define MAX_TAGS 2
/* IPv6 extension headers read; a packet with more stays in the kernel. */
#define MAX_EXTENSIONS 6

/* An address in network order, IPv4 as IPv4-mapped IPv6. */
struct address {
	__be32 words[4];
};

struct vlan_tag {
	__be16 tci;
	__be16 type;
};

/* What a packet is, as far as the rules ask. `at` is the transport header. */
struct packet {
	struct address source, destination;
	void *at;
	__u8 protocol;
	bool fragment;
};

static __always_inline struct address mapped(__be32 addr)
{
	struct address out = { .words = { 0, 0, bpf_htonl(0xffff), addr } };

	return out;
}

static __always_inline struct address plain(const struct in6_addr *addr)
{
	struct address out = { .words = { addr->in6_u.u6_addr32[0], addr->in6_u.u6_addr32[1],
					  addr->in6_u.u6_addr32[2], addr->in6_u.u6_addr32[3] } };

	return out;
}

static __always_inline bool same(const struct address *a, const struct address *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       a->words[2] == b->words[2] && a->words[3] == b->words[3];
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Reads an IPv4 header; false if there is none. */
static __always_inline bool read4(void *at, void *end, struct packet *packet)
{
	struct iphdr *ip = at;
	__u32 length;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return false;
	length = ip->ihl * 4;
	if (length < sizeof(*ip))
		return false;
	packet->source = mapped(ip->saddr);
	packet->destination = mapped(ip->daddr);
	packet->protocol = ip->protocol;
	packet->fragment = ip->frag_off & bpf_htons(0x3fff);
	packet->at = at + length;
	return true;
}

/* Reads an IPv6 header and a bounded number of extension headers; false if that leads nowhere. */
static __always_inline bool read6(void *at, void *end, struct packet *packet)
{
	struct ipv6hdr *ip = at;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return false;
	packet->source = plain(&ip->saddr);
	packet->destination = plain(&ip->daddr);
	packet->protocol = ip->nexthdr;
	packet->fragment = false;
	at = ip + 1;
#pragma unroll
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		__u8 *extension = at;

		if (packet->protocol == IPPROTO_FRAGMENT)
			packet->fragment = true;
		if (packet->fragment || (packet->protocol != IPPROTO_HOPOPTS &&
					 packet->protocol != IPPROTO_ROUTING &&
					 packet->protocol != IPPROTO_DSTOPTS)) {
			packet->at = at;
			return true;
		}
		if ((void *)(extension + 2) > end)
			return false;
		packet->protocol = extension[0];
		at += (extension[1] + 1) * 8;
	}
	return false;
}

/* Reads a frame up to its transport header; false if it carries no IP that can be read. */
static __always_inline bool read_frame(void *data, void *end, struct packet *packet, bool *v6)
{
	struct ethhdr *ethernet = data;
	void *at = ethernet + 1;
	__be16 type;

	if (at > end)
		return false;
	type = ethernet->h_proto;
#pragma unroll
	for (int i = 0; i < MAX_TAGS; i++) {
		struct vlan_tag *tag = at;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return false;
		type = tag->type;
		at = tag + 1;
	}
	*v6 = type == bpf_htons(ETH_P_IPV6);
	if (type == bpf_htons(ETH_P_IP))
		return read4(at, end, packet);
	return *v6 && read6(at, end, packet);
}
